"""Figures and one self-contained HTML page, from the files of a study. No torch."""
