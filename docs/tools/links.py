"""Links from the docs to other files of the repository: relative, so that they work there; on the site, they lead to its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.transforms import SphinxTransform

REPOSITORY = "https://github.com/selfcluster/selfcluster"
ROOT = Path(__file__).resolve().parents[2]
PAGES = {ROOT / "CHANGELOG.md": "changelog", ROOT / "CONTRIBUTING.md": "contributing"}
"""Files that are also pages of the site."""


class LinksToRepository(SphinxTransform):
    """Point links to files outside docs/ to the repository, before MyST and Sphinx look for them."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        folder = Path(self.env.doc2path(self.env.docname)).parent
        links = [node for kind in (pending_xref, download_reference) for node in self.document.findall(kind)]
        for link in links:
            target, _, anchor = link.get("reftarget", "").partition("#")
            path = (folder / target).resolve()  # MyST writes a page outside docs/ as its path without .md
            file = next((p for p in (path, path.with_name(f"{path.name}.md")) if p.exists()), path)
            anchor = anchor or link.get("reftargetid") or ""
            if not file.is_relative_to(ROOT) or file.is_relative_to(ROOT / "docs") or not file.exists():
                continue
            if file in PAGES:
                page = {"refdomain": "doc", "reftarget": PAGES[file], "reftargetid": anchor or None, "reftype": "myst", "refexplicit": True}
                link.replace_self(pending_xref("", *link.children, refdoc=self.env.docname, **page))
            else:
                kind = "tree" if file.is_dir() else "blob"
                address = f"{REPOSITORY}/{kind}/main/{file.relative_to(ROOT)}{'#' * bool(anchor)}{anchor}"
                link.replace_self(nodes.reference("", "", *link.children[0].children, refuri=address, internal=False))


def setup(app: Any) -> dict[str, bool]:
    """Register the transform with Sphinx."""
    app.add_transform(LinksToRepository)
    return {"parallel_read_safe": True}
