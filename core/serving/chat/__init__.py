"""A causal language model over HTTP in OpenAI's interface: `python -m core.serve`, and what other servers add to it."""
