"""A family's colour, whatever a method's title begins with."""

from examples.datasets.stream import Stream
from examples.methods import classp, gram, plain
from examples.report.lines import looks
from examples.runner.plan import OTHER, Method
from examples.streams.study import study


def test_a_colour_is_the_methods_not_that_of_its_titles_first_word():
    compared = study(Stream("permuted_mnist", "domain", 2), 1, 8)
    then = compared.methods["classp_then_0.1"]
    assert then.title.startswith("SGD")
    (style,) = looks([then.family])
    assert style["color"] == classp.FAMILY.colour != plain.SGD.colour


def test_methods_of_a_family_differ_in_their_lines():
    first, second, other = looks([classp.FAMILY, classp.FAMILY, gram.FAMILY])
    assert first["color"] == second["color"] != other["color"]
    assert first["ls"] != second["ls"]


def test_a_method_of_no_family_has_a_colour_too():
    (style,) = looks([Method("Mine", ()).family])
    assert style["color"] == OTHER.colour
