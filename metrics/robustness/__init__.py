"""Whether a map stays what it is when the picture changes so little that nobody sees it."""
