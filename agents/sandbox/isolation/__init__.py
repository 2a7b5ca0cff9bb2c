"""How code is shut in, by calls to the Linux kernel, and which way works on this host."""
