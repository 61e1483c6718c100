"""Everything that can be asked for over HTTP: routes, endpoints, and the pages themselves."""
