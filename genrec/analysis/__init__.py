"""The diagnostics of the papers: what SIDs keep, what a model knows, what systems know of each other.

Import from the modules, since some load torch: `content` (what SIDs keep of the embeddings),
`fidelity` and `judge` (texts that a model wrote), `alignment` (probes between spaces), `collapse`
(positional collapse), `complementarity` (systems against each other), `side_selection` (which side's
norm to keep).
"""
