"""A box to type in, for a running notebook."""

from collections.abc import Callable

from matplotlib.figure import Figure

from mmlearn.plot.figures import show


def search_box(search: Callable[[str], Figure], example: str) -> None:
    """Show a text box; each sentence typed into it (Enter) is given to ``search``, whose figure appears below.

    ``example`` is searched first. Needs a running notebook: a page that only displays one shows nothing here.
    """
    from IPython.display import display
    from ipywidgets import Layout, Output, Text, VBox

    box = Text(value=example, description="search", continuous_update=False, layout=Layout(width="36em"))
    found = Output()

    def answer(_change=None) -> None:
        found.clear_output(wait=True)
        with found:
            if box.value.strip():
                show(search(box.value), alt=f"The pictures that fit best to the words: {box.value}.")

    box.observe(answer, names="value")
    answer()
    display(VBox([box, found]))
