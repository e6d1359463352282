"""Commands for operators that neither serve metrics nor generate files."""
