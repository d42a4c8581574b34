// Anybody's picture file -> ink.

// What is wrong with a file, in one line for a person.
class PictureError extends Error {}

async function readPicture(file) {
  throw new PictureError(`${file.name}: not yet`);
}

function findInk() {
  return null;
}
