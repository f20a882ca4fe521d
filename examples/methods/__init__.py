"""The methods, each of a file.

A file has a family's title and colour, its settings to sweep, and what it does where
one task ends and the next begins. Nothing else need know of a new one.
"""
