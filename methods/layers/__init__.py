"""Maps made of a layer's factors, or of several layers together."""
