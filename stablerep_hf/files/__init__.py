"""Files that are whole or not there: atomic writing, sealed JSON, and places to write to."""
