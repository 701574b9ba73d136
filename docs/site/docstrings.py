"""Our docstrings as the site's API pages read them: `Source:` and `Differs:` stand out, an `Example:` is code."""

import re

import griffe

EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
TITLE = re.compile(r"(^ *|\. )(Source|Differs):(?= \S)", re.MULTILINE)


class Sections(griffe.Extension):
    """Turns the sections that are ours into what the Google style knows."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            text = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            if obj.is_class and "NamedTuple" in map(str, obj.bases):  # has no signature to name them in
                text = text.replace("Args:", "Attributes:", 1)
            obj.docstring.value = TITLE.sub(r"\1**\2:**", text)
