"""The pages: the shop rendered on the server, which a few ES modules make livelier."""
