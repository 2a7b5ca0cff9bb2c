"""Parts of clients and servers of models over HTTP."""
