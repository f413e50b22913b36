"""Pictures and volumes as arrays: how files store them, and the window of them that a network sees."""
