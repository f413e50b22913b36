"""Other packages' implementations, run on the same network, layer and pictures (extra ``peers``).

Each gives its own maps, as its users see them, before upsampling: its formula, its epsilon, its stretch to 0..1.
"""
