"""One hidden layer of a thousand units."""

from examples.models.wide import of_units

MODEL = of_units(1000)
