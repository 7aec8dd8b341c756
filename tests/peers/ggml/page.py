"""A page of results whose sections are made at different times: a section that is not made anew stays."""

import datetime
from pathlib import Path


class Page:
    def __init__(self, path, head):
        """path: None keeps nothing."""
        self.path, self.head, self.sections = path and Path(path), head, {}
        title = None
        if self.path and self.path.exists():
            for line in self.path.read_text().splitlines():
                if line.startswith("## "):
                    title = line[3:]
                    self.sections[title] = []
                elif title:
                    self.sections[title].append(line)

    def put(self, title, lines, how):
        """`how` it was made; the date is today's."""
        self.sections[title] = ["", f"{datetime.date.today()}, {how}", "", *lines]
        self.save()

    def save(self):
        if self.path:
            text = "\n".join([*self.head, *(line for t, lines in self.sections.items() for line in ("", f"## {t}", *lines))])
            self.path.write_text("\n".join(line for line in text.splitlines()).replace("\n\n\n", "\n\n").rstrip() + "\n")
