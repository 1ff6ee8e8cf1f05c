"""Real tables and images into the study folder: one importer a source; each writes a study and its audit."""
