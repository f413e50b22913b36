"""Annotation files of strangers: read into sound records, with what is wrong with the others."""
