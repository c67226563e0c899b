package pipeline

import "github.com/tailrace/tailrace/schemas"

// Bytes is a size written with a unit. It stands in schemas, where the configs of payload formats need it too.
type Bytes = schemas.Bytes
