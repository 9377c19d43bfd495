"""One file per stage, each with one `run(context)`: open what it reads, call the domain, write.

No decisions live here, and a stage imports only what it needs: `prepare` loads no torch.
"""
