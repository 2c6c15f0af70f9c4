"""What writes a `gradexplain.document.model.Document`: one file for each format."""
