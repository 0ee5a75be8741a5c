"""The parts of the HTML report: what is in it, and its template, style and script."""
