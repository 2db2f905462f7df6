"""The static page of an atlas: `write_page(Page, folder)`."""
