"""Papers, reports and web pages with a label on every line: made-up front and end matter around real abstracts."""
