"""A first look at CLASSP: digits, then the same digits with their pixels permuted."""
