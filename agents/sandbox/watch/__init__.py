"""What a call uses while it runs: processes, memory, kernel buffers, files; and the removal of its files."""
