"""Maps of single pixels that average, mask or combine what `methods.attribution` and others give."""
