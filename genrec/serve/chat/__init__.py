"""Chat about a shop: messages in, items that exist and words about them out."""
