"""The tabs of the page: one class a tab, with a method for each event.

- `compare`, `chat`, `inspect`, `traits` and `live` are the tabs. A tab builds its components in `__init__` and connects
  each event to a method. A method takes the visitor's session and the values of components; it returns updates.
- `page` has the parts that the tabs share: the servers, the row with Send and Stop, the empty view.
- `components` has our own components: a view of coloured tokens, its plot, a figure, a fragment of HTML.
- `forms` has the settings of one pane; `presets` has the examples of the tab Compare; `saving` has the save buttons.

Begin with `chat`.
"""
