"""Executes the command blocks of Markdown documents, and compares their output."""
