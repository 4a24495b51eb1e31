"""`tombola explore`: one page, offline, in which people can look at a search's networks, level by level.

coding      masks and weights as bytes, small enough for a page
record      what the page shows, as a value
experiment  the record of an experiment's finished runs
one_file    the record of a ticket's or a search's file
page        the record as one HTML file
"""
