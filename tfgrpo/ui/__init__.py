"""`tfgrpo ui`: a local web page about what was learned and what was run.

server          listens, and answers with pages from the table of routes
guard           who may look, and which request may change something
frame           what every page shares: head, navigation, paging, forms, empty states
catalog         the store's entries with all that is known of them
entry_pages     experiences: the list, and one of them
version_pages   history, differences, tags, rollback
run_pages       runs, their curves and spend
group_pages     the rollouts of a group side by side
static/         the style and one script, served as files: nothing stands inline

Every page is plain HTML, made here of parts that escape; the script adds the keyboard and the choice of light or dark.
"""
