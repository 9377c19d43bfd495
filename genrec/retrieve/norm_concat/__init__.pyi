from .retriever import NormConcat as NormConcat
