"""A box to type in, for a running notebook."""

import base64
import html
from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mmlearn.plot.figures import to_png


def search_box(search: Callable[[str], Figure], example: str) -> None:
    """Show a text box; each sentence typed into it (Enter) is given to ``search``, whose figure appears below.

    ``example`` is searched first. Needs a running notebook: a page that only displays one shows nothing here.
    """
    from IPython.display import display
    from ipywidgets import HTML, Layout, Text, VBox

    box = Text(value=example, description="search", continuous_update=False, layout=Layout(width="36em"))
    found = HTML()  # no Output: its messages can make a headless run wait for a reply that is there

    def answer(_change=None) -> None:
        words = box.value.strip()
        found.value = _picture(search(words), f"The pictures that fit best to the words: {words}.") if words else ""

    box.observe(answer, names="value")
    answer()
    display(VBox([box, found]))


def _picture(figure: Figure, alt: str) -> str:
    """A figure as an element of a page; it is closed."""
    data = base64.b64encode(to_png(figure)).decode()
    plt.close(figure)
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
