from .retriever import AnchorRec as AnchorRec
