"""What a model shares and how a run went, as tables, pictures and a page."""
