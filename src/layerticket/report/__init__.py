"""Tables, charts and the page of a study; this package never trains or measures."""
