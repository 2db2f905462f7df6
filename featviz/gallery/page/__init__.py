"""The static page of an atlas: `featviz.gallery.page.write.write_page(Page, folder)` writes it."""
