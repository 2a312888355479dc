"""The HTTP API and the page, over `retrieval.engine`."""
