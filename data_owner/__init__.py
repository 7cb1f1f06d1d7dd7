"""The data owner: the clinician's side. Holds the image and reads the result; nobody else sees either."""
