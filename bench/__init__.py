"""cam-bench: which class activation map shows best where a CNN's evidence is."""
