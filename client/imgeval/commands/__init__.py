"""One file per command of `imgeval-client`: each parses, calls the library, prints, and sets the exit code."""
