"""The language model: tasks make examples, batches make tensors, a model is built and trained.

Import from the modules; `genrec.lm.tasks` alone loads no torch.
"""
