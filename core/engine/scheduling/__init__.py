"""The host side of the engine, without a model: pages, the prefix cache, the queue, and who runs where."""
