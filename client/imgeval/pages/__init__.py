"""HTML pages and pictures: `explain`, `report` and a notebook's view of a result.

Each page is one file that fetches nothing. What a user wrote (prompts, file names, errors) reaches it by two ways only:
through Jinja2's autoescape, and as JSON that cannot end its script element; a Content-Security-Policy with the hashes
of our own style and script is the second fence.
"""
