"""What turns an answer into a `gradexplain.document.model.Document`: one file for each kind of page."""
