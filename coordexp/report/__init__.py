"""What people look at after a study: figures and one self-contained HTML page, from the study's files. No torch in here."""
