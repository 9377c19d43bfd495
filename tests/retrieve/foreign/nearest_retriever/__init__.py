"""A retriever by the content of the newest item, outside genrec."""
