"""The inspector: a page on which a trait is seen as it appears, token by token, beside any Traitwatch server."""
