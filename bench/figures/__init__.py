"""Tables -> figures; loads no torch."""
