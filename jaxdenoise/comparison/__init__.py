"""The runs of a sweep beside each other: paired statistics, the table, the page."""
